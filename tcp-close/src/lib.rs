//! The domain of closing TCP connections on Linux: sysctls, plan, socket counts. Pure.
