"""The proof: is the rewritten file what it says it is?"""
