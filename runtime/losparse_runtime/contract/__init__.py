"""What crosses the packages: the facts of an exported folder. numpy and the standard library only."""
