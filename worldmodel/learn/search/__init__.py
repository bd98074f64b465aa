"""Ways to find an expression: sums and products, functions and texts, parts of lists, shares."""
