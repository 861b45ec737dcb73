"""What a certifier does with a frame: let in, answered, asked about, withheld."""
