"""What providers report: usage in OpenAI's words and in others', responses and streams."""
