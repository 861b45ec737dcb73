"""From whatever a camera or a file delivers to the array that the graph takes."""
