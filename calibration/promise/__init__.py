"""What is promised and how it is kept: guarantee, maps, head, offsets, the choice and the record."""
