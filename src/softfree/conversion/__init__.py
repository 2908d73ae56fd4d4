"""From weights trained with softmax to a SeqNorm model that begins where they ended; see docs/how-to/convert.md."""
