"""Reports: frozen values, what can be read from them, and the formats in which they are drawn, saved and loaded."""
