"""Reading what providers report: usage in OpenAI's format and in others, responses, and streams."""
