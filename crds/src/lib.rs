//! The TcpCloseTuning and TcpCloseNode resources, and their generated YAML.
