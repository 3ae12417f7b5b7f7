use proptest::option;
use proptest::prelude::*;
use proto::model::*;

use super::part::{address, annotations, driver, few, id, map, meta, net, text};

prop_compose! {
    pub fn network()(
        id in id(),
        meta in meta(),
        spec in spec(),
        state in option::of(state()),
        pending_delete: bool,
    ) -> Network {
        Network { id, meta, spec, state, pending_delete }
    }
}

prop_compose! {
    fn spec()(
        annotations in annotations(),
        driver in driver(),
        (ipv6, internal, attachable) in any::<(bool, bool, bool)>(),
        ipam in few(config()),
        config_from in option::of(text()),
    ) -> NetworkSpec {
        NetworkSpec { annotations, driver, ipv6, internal, attachable, ipam, config_from }
    }
}

prop_compose! {
    fn config()(
        subnet in net(),
        range in option::of(net()),
        gateway in option::of(address()),
        reserved in map(address()),
    ) -> IpamConfig {
        IpamConfig { subnet, range, gateway, reserved }
    }
}

prop_compose! {
    fn state()(vni in 0..1u32 << 24, subnets in few(subnet()), options in map(text())) -> NetworkState {
        NetworkState { vni, subnets, options }
    }
}

prop_compose! {
    fn subnet()(
        net in net(),
        range in option::of(net()),
        gateway in address(),
        reserved in map(address()),
    ) -> Subnet {
        Subnet { net, range, gateway, reserved }
    }
}
