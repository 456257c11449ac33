"""The process that holds the pods' keys, and its client.

A pod can use its key and nobody can read it: not the pod, not the metadata service, not a tool of ours. The
key is made here, written to a file that only this process's user may read, and never sent anywhere.

protocol   what travels over the socket
client     what others call (lean: it is on the launch path)
keys       the keys on disk and in memory
counts     signatures counted into the audit record
service    the process
"""
