# The child of python_child.rs. Each message is a line of JSON on the socket in NODE_CHANNEL_FD.
import json
import os
import socket
import statistics

channel = socket.socket(fileno=int(os.environ.pop("NODE_CHANNEL_FD")))
messages = channel.makefile("rw", encoding="utf-8", newline="\n")
for message in messages:
    numbers = json.loads(message)
    answer = None
    if numbers:
        answer = {"mean": statistics.mean(numbers), "deviation": statistics.pstdev(numbers)}
    messages.write(json.dumps(answer) + "\n")
    messages.flush()
