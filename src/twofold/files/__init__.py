"""Files: read as they were found, written whole or not at all."""
