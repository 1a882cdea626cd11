//! The ports on which a service listens.

use super::Recipe;
use crate::http::Url;
use crate::protocol::deploy::HealthProbe;

impl Recipe {
    /// Returns the TCP ports on which the service's units listen: those of the recipe, else the port of the health
    /// check if it is on the host itself.
    pub fn listen_ports(&self) -> Vec<u16> {
        let address = match &self.health.probe {
            Some(HealthProbe::Http { url, .. }) => Url::parse(url).map(|url| url.address),
            Some(HealthProbe::Tcp { address }) => Some(address.clone()),
            Some(HealthProbe::Command { .. }) | None => None,
        };
        match (&self.ports, address) {
            (Some(ports), _) => ports.clone(),
            (None, Some(address)) => parse_local_port(&address).into_iter().collect(),
            (None, None) => Vec::new(),
        }
    }
}

fn parse_local_port(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    let is_local = host == "localhost" || host == "[::1]" || host.starts_with("127.");
    port.parse().ok().filter(|_| is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_health_check_on_the_host_is_a_port_of_the_service() {
        let ports = |keys: &str| {
            let text = format!("service = \"shop\"\nhosts = \"web\"\nroot = \"/srv/shop\"\n{keys}");
            Recipe::parse(&text).unwrap().listen_ports()
        };
        assert_eq!(ports("[health]\nhttp = \"http://127.0.0.1:8080/healthz\""), [8080]);
        assert_eq!(ports("[health]\nhttp = \"http://localhost/healthz\""), [80]);
        assert_eq!(ports("[health]\ntcp = \"[::1]:5000\""), [5000]);
        assert_eq!(ports("[health]\ntcp = \"lb.example:5000\""), Vec::<u16>::new());
        assert_eq!(ports("ports = [8081, 9100]\n[health]\ntcp = \"127.0.0.1:5000\""), [8081, 9100]);
        assert_eq!(ports("ports = []\n[health]\ntcp = \"127.0.0.1:5000\""), Vec::<u16>::new());
    }
}
