"""Reports: frozen values, and every way of reading, comparing, saving and drawing them."""
