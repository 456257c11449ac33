"""The metadata service: tells the apps of a pod what and where they are, and has messages signed for them.

client     how pods are registered (lean: it is on the launch path)
http       requests and responses as bytes: pure
forms      bodies of POST requests: pure
document   what the service knows of a pod, read from the file that `prepare` wrote: pure
routes     which request gets which answer: pure
registry   the pods that are served
recover    the pods of a service that was restarted, found again as root
signing    the way to the signer, for many requests at a time
server     sockets, connections, limits
service    the process
"""
