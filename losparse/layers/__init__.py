"""The layer every method yields, its stored forms, and the linear layers it takes the place of.

spec             what a factored layer is, in sizes; loads no torch
factored         the layer: two factors, kept rows or columns, a bias
training         the form it has while a method trains it
table            what a compact embedding table is, in sizes; loads no torch
embedding        such a table, and what is tied to it
joint            layers that share one factor
pivots           the same product in fewer parameters; spanning_rows finds them
budget           shares of parameters to ranks; loads no torch
linear           the dense layers to compress, and how one is replaced; patterns names them, blocks says where they are
casting          what a dtype can hold
lazy_weight      a dense weight for code that asks for one
"""
