mod background;
mod config;
mod listen;
mod ports;
mod tls;
fn main() {}
