"""What caller and worker may say to each other, and when: pure state machines and their codec.

No asyncio, no clock, no randomness, no logging: events go in, instructions come out.
"""
