"""Operations: what a person or a fleet sees of a certifier. Nothing here is on the camera loop's path unless asked for."""
