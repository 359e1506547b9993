"""Reading what providers are sent, and what they report: prompts, usage, responses, and streams."""
