"""Whether a folder is what its maker wrote, and who vouches for it.

keys        the keys that sign, and those that signatures are compared with
signature   the file of a signature
signing     a folder signed
verifying   every file by its digest, nothing beside them, and the signature
seal        the same for a session, until it is open
"""
