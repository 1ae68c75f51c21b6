"""Charts as inline SVG: `svg` holds axes, lines and labels, `charts` the drawings that a report shows."""
