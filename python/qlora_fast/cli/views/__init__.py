"""What a command shows, where that is more than a few lines: the report of a preparation, a row, tokens."""
