//! Which ports the stack listens on, all on 127.0.0.1.

use std::net::{Ipv4Addr, TcpListener};

use rand::RngExt;

use super::error::{StackError, TakenPort};

/// Where free ports are looked for: below the range from which Linux takes the
/// near ends of outgoing connections, so that no connection takes one meanwhile.
const FREE_RANGE: std::ops::Range<u16> = 20_000..32_000;
const FREE_TRIES: usize = 1_000;

/// One port per listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Clients of the broker.
    pub kafka: u16,
    /// The broker's own controller.
    pub kafka_controller: u16,
    /// A second listener of the broker, for a proxy.
    pub kafka_proxied: u16,
    /// Where the second listener says that it is: a proxy that a test may put there
    /// can cut clients off. The stack itself does not listen on it.
    pub kafka_proxy: u16,
    /// The schema registry.
    pub registry: u16,
    /// PostgreSQL.
    pub postgres: u16,
}

impl Ports {
    /// What `make demo` and `stack up` use unless told otherwise.
    pub const DEFAULT_BASE: u16 = 19_000;
    /// Highest base that leaves room for every port.
    pub const MAX_BASE: u16 = 65_000;

    /// Kafka at base + 92 to 95, the registry at + 81, PostgreSQL at + 432.
    pub fn from_base(base: u16) -> Result<Self, StackError> {
        if !(1_024..=Self::MAX_BASE).contains(&base) {
            return Err(StackError::PortBase { base, max: Self::MAX_BASE });
        }
        Ok(Self {
            kafka: base + 92,
            kafka_controller: base + 93,
            kafka_proxied: base + 94,
            kafka_proxy: base + 95,
            registry: base + 81,
            postgres: base + 432,
        })
    }

    /// Ports that nobody listens on now; for tests, which may run side by side.
    pub fn free() -> Result<Self, StackError> {
        let mut rng = rand::rng();
        let mut found = Vec::with_capacity(6);
        for _ in 0..FREE_TRIES {
            let port = rng.random_range(FREE_RANGE);
            if !found.contains(&port) && is_free(port) {
                found.push(port);
            }
            if let [kafka, kafka_controller, kafka_proxied, kafka_proxy, registry, postgres] = found[..] {
                return Ok(Self { kafka, kafka_controller, kafka_proxied, kafka_proxy, registry, postgres });
            }
        }
        Err(StackError::NoFreePorts { tries: FREE_TRIES })
    }

    /// Every port that a server will listen on, with what it is for.
    fn listeners(&self) -> [(u16, &'static str); 5] {
        [
            (self.kafka, "Kafka (clients)"),
            (self.kafka_controller, "Kafka (controller)"),
            (self.kafka_proxied, "Kafka (clients behind a proxy)"),
            (self.registry, "schema registry"),
            (self.postgres, "PostgreSQL"),
        ]
    }

    /// Names all ports that are taken, at once.
    pub(super) fn check_free(&self) -> Result<(), StackError> {
        let taken: Vec<_> = self
            .listeners()
            .into_iter()
            .filter(|(port, _)| !is_free(*port))
            .map(|(port, wanted_by)| TakenPort { port, wanted_by })
            .collect();
        if taken.is_empty() { Ok(()) } else { Err(StackError::PortsTaken(taken)) }
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_base_gives_the_documented_ports() {
        let ports = Ports::from_base(Ports::DEFAULT_BASE).unwrap();
        assert_eq!(
            (ports.kafka, ports.kafka_controller, ports.kafka_proxied, ports.kafka_proxy),
            (19_092, 19_093, 19_094, 19_095)
        );
        assert_eq!((ports.registry, ports.postgres), (19_081, 19_432));
    }

    #[test]
    fn a_base_without_room_is_refused() {
        assert!(Ports::from_base(Ports::MAX_BASE).is_ok());
        let error = Ports::from_base(Ports::MAX_BASE + 1).unwrap_err();
        assert!(error.to_string().contains("PORT_BASE"), "{error}");
        assert!(Ports::from_base(80).is_err());
    }

    #[test]
    fn all_taken_ports_are_named_at_once() {
        let ports = Ports::free().unwrap();
        let _first = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.registry)).unwrap();
        let _second = TcpListener::bind((Ipv4Addr::UNSPECIFIED, ports.postgres)).unwrap();
        let text = ports.check_free().unwrap_err().to_string();
        for expected in [
            &ports.registry.to_string(),
            &ports.postgres.to_string(),
            "PostgreSQL",
            "schema registry",
            "PORT_BASE",
        ] {
            assert!(text.contains(expected), "{expected} is not in: {text}");
        }
        assert!(!text.contains("Kafka"), "{text}");
    }
}
