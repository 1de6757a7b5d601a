//! x
/// x
#[derive(Clone, Debug, Default)]
pub struct HttpConfig {
    /// x
    pub cors_origins: Vec<String>,
}
/// x
pub fn router(_b: crate::handle::Broker, _c: HttpConfig) -> axum::Router { axum::Router::new() }
