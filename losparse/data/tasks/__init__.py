"""One file a task: how its rows are read, tokenised, padded and measured. `registry` lists them."""
