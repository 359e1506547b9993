"""The live core: scopes, counting, budgets."""
