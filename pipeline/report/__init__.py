"""What came out: the closing summary of a command, and the page that a person looks at."""
