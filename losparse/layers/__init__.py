"""The layer every method yields, its stored forms, and the linear layers it takes the place of."""
