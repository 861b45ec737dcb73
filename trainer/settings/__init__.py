"""What the user asks for: rrise.toml read, checked and written with its comments."""
