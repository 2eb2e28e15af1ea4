//! The proxy against real clients and servers on loopback.

mod peers;
