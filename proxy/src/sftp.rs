//! The SFTP version 3 engine: bytes in, operations through the gate, bytes out.
