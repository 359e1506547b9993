"""Count calls made without DSPy: responses and streams of a provider's SDK, and numbers you record yourself.

It runs against a local server. To use a real model, leave out `base_url`.
"""

import openai

from tokenscope import record_response, record_stream, record_tokens, token_scope
from tokenscope.testing import LoopbackProvider


def main(client):
    """Ask for an answer, a streamed answer and an embedding, and record a call without a response."""
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Why do leaves turn red?"}]}
    with token_scope("request") as scope:
        with token_scope("answer"):
            record_response(client.chat.completions.create(**asked))
        with token_scope("stream"):
            stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
            for chunk in record_stream(stream):
                if chunk.choices:
                    print(chunk.choices[0].delta.content or "", end="")
        with token_scope("search"):
            record_response(client.embeddings.create(model="text-embedding-3-small", input=["red leaves"]))
            record_tokens("search", "rerank", "rerank-3", "cohere", input_tokens=90, output_tokens=0)
    print()
    print(scope)


if __name__ == "__main__":
    with LoopbackProvider() as provider:
        main(openai.OpenAI(base_url=provider.url, api_key="none"))
