"""What docs/extending.md shows, file by file; the tests beside this folder go the whole way with each."""
