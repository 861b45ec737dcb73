"""The commands of `rrise-calibrate` that have a module of their own, and the options they share."""
