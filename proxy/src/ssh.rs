//! The SSH edge: the only user of the SSH library besides the upstream backend.
