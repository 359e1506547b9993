"""Count what a provider's SDK is asked without DSPy: whole responses, streams, and what no SDK knows.

Runs against a small server on loopback; for a real model, leave out `base_url`.
"""

import openai

from tokenscope import record_response, record_stream, record_tokens, token_scope
from tokenscope.testing import LoopbackProvider


def main(client):
    """Ask for an answer, for a streamed one, and for an embedding; and tell of a call that nobody else can tell of."""
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
