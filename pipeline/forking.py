"""Imported first by the process that workers are forked from: what it imports is never searched for garbage.

Libraries are a million objects that stay. Looking through them takes seconds while they are imported, and would take a
worker a copy of every page that they lie on. So the gc module's documentation advises it.
"""

import gc
import os

gc.disable()
os.register_at_fork(before=gc.freeze, after_in_parent=gc.unfreeze, after_in_child=gc.enable)
