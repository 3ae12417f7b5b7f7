use proptest::option;
use proptest::prelude::*;
use proto::model::*;
use proto::wire;

use super::part::{amount, annotations, few, id, map, meta, text, value};

prop_compose! {
    pub fn node()(
        id in id(),
        meta in meta(),
        spec in spec(),
        description in option::of(description()),
        status in status(),
        manager in option::of(manager()),
        certificate in certificate(),
        role in value::<wire::NodeRole, _>(),
    ) -> Node {
        Node { id, meta, spec, description, status, manager, certificate, role }
    }
}

prop_compose! {
    fn spec()(
        annotations in annotations(),
        desired_role in value::<wire::NodeRole, _>(),
        membership in value::<wire::node_spec::Membership, _>(),
        availability in value::<wire::node_spec::Availability, _>(),
    ) -> NodeSpec {
        NodeSpec { annotations, desired_role, membership, availability }
    }
}

prop_compose! {
    fn description()(
        hostname in text(),
        platform in platform(),
        nano_cpus in amount(),
        memory_bytes in amount(),
        version in text(),
        labels in map(text()),
        plugins in few((text(), text())),
        tls in option::of((few(any::<u8>()), few(any::<u8>()), few(any::<u8>()))),
    ) -> NodeDescription {
        let engine = EngineDescription { version, labels, plugins };
        let tls = tls.map(|(trust_root, issuer_subject, issuer_public_key)| TlsInfo {
            trust_root,
            issuer_subject,
            issuer_public_key,
        });
        NodeDescription { hostname, platform, nano_cpus, memory_bytes, engine, tls }
    }
}

prop_compose! {
    pub fn platform()(architecture in text(), os in text()) -> Platform {
        Platform { architecture, os }
    }
}

prop_compose! {
    fn status()(
        state in value::<wire::node_status::State, _>(),
        message in text(),
        addr in text(),
    ) -> NodeStatus {
        NodeStatus { state, message, addr }
    }
}

prop_compose! {
    fn manager()(
        raft_id: u64,
        addr in text(),
        leader: bool,
        reachability in value::<wire::raft_member_status::Reachability, _>(),
        lag: Option<u64>,
    ) -> ManagerStatus {
        ManagerStatus { raft_id, addr, leader, reachability, lag }
    }
}

prop_compose! {
    fn certificate()(
        role in value::<wire::NodeRole, _>(),
        csr: Vec<u8>,
        state in value::<wire::issuance_status::State, _>(),
        error in text(),
        chain: Vec<u8>,
        cn in text(),
    ) -> Certificate {
        Certificate { role, csr, state, error, chain, cn }
    }
}
