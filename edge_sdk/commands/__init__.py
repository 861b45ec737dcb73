"""The commands of `rrise-edge` by subject, and the options they share."""
