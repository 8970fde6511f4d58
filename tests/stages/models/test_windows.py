import torch

from s3pot_batch.stages.models.windows import MARGIN, TokenWindow


def test_a_window_holds_its_cells_with_a_margin_and_ends_where_the_frame_does():
    window = TokenWindow.around(torch.tensor([3 * 16 + 1, 5 * 16 + 7]), 16)
    assert (window.rows, window.columns) == (slice(3 - MARGIN, 6 + MARGIN), slice(0, 8 + MARGIN))
    assert TokenWindow.around(torch.tensor([0, 255]), 16) == TokenWindow.whole(16)


def test_cells_of_a_window_are_those_of_the_frame():
    window = TokenWindow(16, slice(3, 9), slice(2, 14))
    frame = torch.arange(256).view(16, 16)
    own = torch.arange(window.height * window.width)
    assert torch.equal(window.cells(own), window.cut(frame).flatten())


def test_around_a_window_stands_what_stands_at_its_edge():
    window = TokenWindow(4, slice(1, 3), slice(0, 3))
    filled = window.filled(torch.arange(24.0).view(1, 4, 6))  # twice as fine as the tokens
    assert filled.shape == (1, 8, 8)
    assert filled[0, 2:6, :6].flatten().tolist() == list(range(24))
    assert filled[0, :, 7].tolist() == [5, 5, 5, 11, 17, 23, 23, 23]
