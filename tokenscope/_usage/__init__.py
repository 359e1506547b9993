"""Values: usage, the keys by which it is added up, tables of it, and prices. Nothing here is patched or waits for anything."""
