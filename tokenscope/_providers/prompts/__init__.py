"""Prompts measured by parts: how many tokens of a prompt are instructions, demos, inputs, and so on. No text is kept."""
