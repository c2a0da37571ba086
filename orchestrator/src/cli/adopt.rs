//! `pitwall adopt`: which of two sidecars goes on.
use pitwall_proto::v1;

use super::{
    args,
    client::{Client, within},
    exit::Result,
    mutate,
    out::Out,
    render::text,
};

pub async fn adopt(out: Out, asked: &args::Adopt) -> Result<()> {
    let client = Client::connect(&asked.connect).await?;
    let request = v1::AdoptSidecarRequest {
        project: client.project(),
        agent: asked.agent.clone(),
        sidecar: asked.sidecar.clone(),
        origin: mutate::origin(),
    };
    let adopted = within(client.api().adopt_sidecar(request)).await?;
    out.show(&adopted, |_| {
        format!(
            "{}: {} (life {} on {}) goes on; give the other one a state directory of its own\n",
            text::clean(&adopted.agent),
            text::clean(&adopted.process),
            adopted.life,
            text::clean(&adopted.hostname)
        )
    })
}
