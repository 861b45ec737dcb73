"""The commands of `rrise-train` that have a module of their own."""
