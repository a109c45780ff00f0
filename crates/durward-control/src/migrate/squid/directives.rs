//! Every directive of Squid 5 and 6, by what becomes of it. A test counts them.

use super::Notes;
use super::lines::Line;

/// What becomes of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It becomes part of documents, or its own notes say why not.
    Translated,
    /// It does not decide who may go where, nor from which address.
    Harmless,
    /// Its like is configured in another place.
    Elsewhere(&'static str),
    /// Without it more is let through.
    Opens(&'static str),
    /// Without it less works.
    Closes(&'static str),
    /// Without it clients leave from other addresses, or are taken for others.
    ChangesAddress(&'static str),
    /// Squid has no directive of this name.
    Unknown,
}

/// The class of a directive.
pub(super) fn class(name: &str) -> Class {
    let is_in = |names: &[&str]| names.contains(&name);
    if is_in(TRANSLATED) || is_in(PARENTS) {
        return Class::Translated;
    }
    if is_in(LIMITS) {
        return Class::Elsewhere(
            "time, size, bandwidth and connections are limits of the tenant: spec.limits",
        );
    }
    if is_in(REWRITES) {
        return Class::Opens(
            "nothing looks into answers, rewrites requests or asks other programs",
        );
    }
    if is_in(HARMLESS) {
        return Class::Harmless;
    }
    let text = match name {
        "access_log" | "logformat" | "note" => {
            "every request and tunnel is recorded; the command line of run says where"
        }
        "deny_info" => "the page that says no names the rule and spec.egress.contact",
        "external_acl_type" => "no other program is asked; lines that use such a list are reported",
        "tcp_outgoing_tos"
        | "clientside_tos"
        | "qos_flows"
        | "zph_local"
        | "mark_client_connection"
        | "mark_client_packet" => "packets are not marked for queues",
        "spoof_client_ip" => "clients always leave from the tenant's addresses",
        "udp_outgoing_address" => "names are asked for from the tenant's own address",
        "auth_schemes" => "credentials are Basic or Bearer",
        "client_netmask" => "logs have the client's whole address",
        "max_filedesc" | "max_filedescriptors" | "max_open_disk_fds" => {
            "open files are shared out among tenants: docs/guide/operations.md"
        }
        _ => return other(name),
    };
    Class::Elsewhere(text)
}

fn other(name: &str) -> Class {
    match name {
        "append_domain" | "dns_defnames" | "hosts_file" => Class::Closes(
            "names are looked up as clients write them: by the host, or by spec.egress.resolvers",
        ),
        "ftp_port" => Class::Closes("clients cannot speak FTP to the proxy"),
        "on_unsupported_protocol" => Class::Closes("what is no HTTP, TLS or SOCKS is refused"),
        "request_header_add" | "request_header_replace" => {
            Class::Closes("requests are sent on with the client's own fields")
        }
        "follow_x_forwarded_for" | "proxy_protocol_access" => Class::ChangesAddress(
            "clients are told apart by the address they connect from: those behind another proxy or load balancer are that one's tenant",
        ),
        "tcp_outgoing_mark" => Class::ChangesAddress(
            "packets are not marked: where marks choose a route or an address, write a tenant for each",
        ),
        _ => Class::Unknown,
    }
}

/// Reports what becomes of a line, unless its translation does.
pub(super) fn report(line: &Line, notes: &mut Notes) {
    let name = line.name();
    let arguments: Vec<&str> = line.arguments().iter().map(String::as_str).collect();
    match (name, class(name)) {
        ("follow_x_forwarded_for" | "proxy_protocol_access", _)
            if arguments.first() == Some(&"deny") => {}
        ("ssl_bump", _) => bump(line, &arguments, notes),
        (_, Class::Translated | Class::Harmless) => {}
        (_, Class::Elsewhere(text)) => notes.elsewhere(line, format!("{name}: {text}")),
        (_, Class::Opens(text)) => notes.wider(line, format!("{name} has no equal: {text}")),
        (_, Class::Closes(text)) => notes.narrower(line, format!("{name}: {text}")),
        (_, Class::ChangesAddress(text)) => notes.other_address(line, format!("{name}: {text}")),
        (_, Class::Unknown) => {
            notes.wider(line, format!("{name} is no directive that is known here"))
        }
    }
}

/// TLS stays between client and server, which is what splicing means.
fn bump(line: &Line, arguments: &[&str], notes: &mut Notes) {
    match arguments.first() {
        Some(&("splice" | "peek" | "none")) => {
            notes.elsewhere(line, "ssl_bump: TLS is never opened, tunnels are judged by the name that is asked for");
        }
        _ => notes.wider(
            line,
            "ssl_bump: TLS is never opened, so requests inside tunnels are not judged; sniMustMatch: true at least compares names",
        ),
    }
}

/// Read by their own parts.
const TRANSLATED: &[&str] = &[
    "acl",
    "auth_param",
    "cache_mgr",
    "cache_peer",
    "dns_nameservers",
    "http_access",
    "http_port",
    "https_port",
    "include",
    "ssl_bump",
    "tcp_outgoing_address",
];

/// Read where there is a `cache_peer`; without one they choose nothing.
pub(super) const PARENTS: &[&str] = &[
    "always_direct",
    "cache_peer_access",
    "cache_peer_domain",
    "hierarchy_stoplist",
    "neighbor_type_domain",
    "never_direct",
    "nonhierarchical_direct",
    "prefer_direct",
];

/// Bounds on time, size, bandwidth and number.
const LIMITS: &[&str] = &[
    "client_delay_access",
    "client_delay_initial_bucket_level",
    "client_delay_parameters",
    "client_delay_pools",
    "client_idle_pconn_timeout",
    "client_ip_max_connections",
    "client_lifetime",
    "client_request_buffer_max_size",
    "connect_timeout",
    "delay_access",
    "delay_class",
    "delay_initial_bucket_level",
    "delay_parameters",
    "delay_pools",
    "pconn_timeout",
    "persistent_request_timeout",
    "read_timeout",
    "request_body_max_size",
    "request_header_max_size",
    "request_start_timeout",
    "request_timeout",
    "response_delay_pool",
    "response_delay_pool_access",
    "write_timeout",
];

/// Other programs that look at requests and answers, and lines about answers.
const REWRITES: &[&str] = &[
    "adaptation_access",
    "adaptation_service_chain",
    "adaptation_service_set",
    "adapted_http_access",
    "ecap_enable",
    "ecap_service",
    "http_access2",
    "http_reply_access",
    "icap_access",
    "icap_class",
    "icap_enable",
    "icap_service",
    "location_rewrite_program",
    "miss_access",
    "redirect_program",
    "reply_body_max_size",
    "url_rewrite_access",
    "url_rewrite_program",
];

/// About caching, logs, processes, speed and forms of HTTP.
const HARMLESS: &[&str] = &[
    "accept_filter",
    "acl_uses_indirect_client",
    "adaptation_masterx_shared_names",
    "adaptation_meta",
    "adaptation_send_client_ip",
    "adaptation_send_username",
    "adaptation_service_iteration_limit",
    "adaptation_uses_indirect_client",
    "allow_underscore",
    "announce_file",
    "announce_host",
    "announce_period",
    "announce_port",
    "as_whois_server",
    "authenticate_cache_garbage_interval",
    "authenticate_ip_ttl",
    "authenticate_ttl",
    "background_ping_rate",
    "balance_on_multiple_ip",
    "broken_posts",
    "broken_vary_encoding",
    "buffered_logs",
    "cache",
    "cache_access_log",
    "cache_dir",
    "cache_dns_program",
    "cache_effective_group",
    "cache_effective_user",
    "cache_log",
    "cache_log_message",
    "cache_mem",
    "cache_miss_revalidate",
    "cache_replacement_policy",
    "cache_store_log",
    "cache_swap_high",
    "cache_swap_log",
    "cache_swap_low",
    "cache_swap_state",
    "cache_vary",
    "cachemgr_passwd",
    "check_hostnames",
    "chroot",
    "chunked_request_body_max_size",
    "client_db",
    "client_dst_passthru",
    "client_persistent_connections",
    "collapsed_forwarding",
    "collapsed_forwarding_access",
    "configuration_includes_quoted_values",
    "connect_retries",
    "coredump_dir",
    "cpu_affinity_map",
    "dead_peer_timeout",
    "debug_options",
    "delay_pool_uses_indirect_client",
    "detect_broken_pconn",
    "digest_bits_per_entry",
    "digest_generation",
    "digest_rebuild_chunk_percentage",
    "digest_rebuild_period",
    "digest_rewrite_period",
    "digest_swapout_chunk_size",
    "diskd_program",
    "dns_children",
    "dns_multicast_local",
    "dns_packet_max",
    "dns_retransmit_interval",
    "dns_testnames",
    "dns_timeout",
    "dns_v4_fallback",
    "dns_v4_first",
    "email_err_data",
    "emulate_httpd_log",
    "err_html_text",
    "err_page_stylesheet",
    "error_default_language",
    "error_directory",
    "error_log_languages",
    "error_map",
    "esi_parser",
    "eui_lookup",
    "extension_methods",
    "external_refresh_check",
    "fake_user_agent",
    "force_request_body_continuation",
    "forward_log",
    "forward_max_tries",
    "forward_timeout",
    "forwarded_for",
    "fqdncache_size",
    "ftp_client_idle_timeout",
    "ftp_eprt",
    "ftp_epsv",
    "ftp_epsv_all",
    "ftp_list_width",
    "ftp_passive",
    "ftp_sanitycheck",
    "ftp_telnet_protocol",
    "ftp_user",
    "global_internal_static",
    "half_closed_clients",
    "happy_eyeballs_connect_gap",
    "happy_eyeballs_connect_limit",
    "happy_eyeballs_connect_timeout",
    "header_access",
    "high_memory_warning",
    "high_page_fault_warning",
    "high_response_time_warning",
    "hopeless_kid_revival_delay",
    "host_verify_strict",
    "hostname_aliases",
    "htcp_access",
    "htcp_clr_access",
    "htcp_port",
    "http_accel_surrogate_remote",
    "http_anonymizer",
    "http_upgrade_request_protocols",
    "httpd_accel_no_pmtu_disc",
    "httpd_accel_surrogate_id",
    "httpd_accel_with_proxy",
    "httpd_suppress_version_string",
    "https_upgrade_request_protocols",
    "icap_206_enable",
    "icap_client_username_encode",
    "icap_client_username_header",
    "icap_connect_timeout",
    "icap_default_options_ttl",
    "icap_io_timeout",
    "icap_log",
    "icap_persistent_connections",
    "icap_preview_enable",
    "icap_preview_size",
    "icap_retry",
    "icap_retry_limit",
    "icap_service_failure_limit",
    "icap_service_revival_delay",
    "icon_directory",
    "icp_access",
    "icp_hit_stale",
    "icp_port",
    "icp_query_timeout",
    "ident_lookup_access",
    "ident_timeout",
    "ie_refresh",
    "ignore_expect_100",
    "ignore_ims_on_miss",
    "ignore_unknown_nameservers",
    "incoming_dns_average",
    "incoming_http_average",
    "incoming_icp_average",
    "incoming_rate",
    "incoming_tcp_average",
    "incoming_udp_average",
    "ipcache_high",
    "ipcache_low",
    "ipcache_size",
    "loadable_modules",
    "log_access",
    "log_fqdn",
    "log_icap",
    "log_icp_queries",
    "log_ip_on_direct",
    "log_mime_hdrs",
    "log_uses_indirect_client",
    "logfile_daemon",
    "logfile_rotate",
    "mail_from",
    "mail_program",
    "max_stale",
    "maximum_icp_query_timeout",
    "maximum_object_size",
    "maximum_object_size_in_memory",
    "maximum_single_addr_tries",
    "mcast_groups",
    "mcast_icp_query_timeout",
    "mcast_miss_addr",
    "mcast_miss_encode_key",
    "mcast_miss_port",
    "mcast_miss_ttl",
    "memory_cache_mode",
    "memory_cache_shared",
    "memory_pools",
    "memory_pools_limit",
    "memory_replacement_policy",
    "mime_table",
    "min_dns_poll_cnt",
    "min_tcp_poll_cnt",
    "min_udp_poll_cnt",
    "minimum_direct_hops",
    "minimum_direct_rtt",
    "minimum_expiry_time",
    "minimum_icp_query_timeout",
    "minimum_object_size",
    "negative_dns_ttl",
    "negative_ttl",
    "netdb_filename",
    "netdb_high",
    "netdb_low",
    "netdb_ping_period",
    "offline_mode",
    "paranoid_hit_validation",
    "pconn_lifetime",
    "peer_connect_timeout",
    "persistent_connection_after_error",
    "pid_filename",
    "pinger_enable",
    "pinger_program",
    "pipeline_prefetch",
    "positive_dns_ttl",
    "query_icmp",
    "quick_abort_max",
    "quick_abort_min",
    "quick_abort_pct",
    "range_offset_limit",
    "read_ahead_gap",
    "redirect_children",
    "redirector_bypass",
    "referer_log",
    "refresh_all_ims",
    "refresh_pattern",
    "refresh_stale_hit",
    "relaxed_header_parser",
    "reload_into_ims",
    "reply_header_access",
    "reply_header_add",
    "reply_header_max_size",
    "reply_header_replace",
    "request_entities",
    "request_header_access",
    "retry_on_error",
    "send_hit",
    "server_http11",
    "server_idle_pconn_timeout",
    "server_pconn_for_nonretriable",
    "server_persistent_connections",
    "shared_memory_locking",
    "shared_transient_entries_limit",
    "short_icon_urls",
    "shutdown_lifetime",
    "sleep_after_fork",
    "snmp_access",
    "snmp_incoming_address",
    "snmp_outgoing_address",
    "snmp_port",
    "ssl_engine",
    "ssl_unclean_shutdown",
    "sslcrtd_children",
    "sslcrtd_program",
    "sslcrtvalidator_children",
    "sslcrtvalidator_program",
    "sslpassword_program",
    "sslproxy_cafile",
    "sslproxy_capath",
    "sslproxy_cert_adapt",
    "sslproxy_cert_error",
    "sslproxy_cert_sign",
    "sslproxy_cert_sign_hash",
    "sslproxy_cipher",
    "sslproxy_client_certificate",
    "sslproxy_client_key",
    "sslproxy_flags",
    "sslproxy_foreign_intermediate_certs",
    "sslproxy_options",
    "sslproxy_session_cache_size",
    "sslproxy_session_ttl",
    "sslproxy_version",
    "stats_collection",
    "store_avg_object_size",
    "store_dir_select_algorithm",
    "store_id_access",
    "store_id_bypass",
    "store_id_children",
    "store_id_extras",
    "store_id_program",
    "store_miss",
    "store_objects_per_bucket",
    "storeurl_rewrite_program",
    "strip_query_terms",
    "tcp_recv_bufsize",
    "test_reachability",
    "tls_key_log",
    "tls_outgoing_options",
    "tproxy_uses_indirect_client",
    "udp_incoming_address",
    "umask",
    "unique_hostname",
    "unlinkd_program",
    "update_headers",
    "upgrade_http0.9",
    "uri_whitespace",
    "url_rewrite_bypass",
    "url_rewrite_children",
    "url_rewrite_concurrency",
    "url_rewrite_extras",
    "url_rewrite_host_header",
    "url_rewrite_timeout",
    "useragent_log",
    "vary_ignore_expire",
    "via",
    "visible_hostname",
    "wais_relay_host",
    "wais_relay_port",
    "wccp2_address",
    "wccp2_assignment_method",
    "wccp2_forwarding_method",
    "wccp2_rebuild_wait",
    "wccp2_return_method",
    "wccp2_router",
    "wccp2_service",
    "wccp2_service_info",
    "wccp2_weight",
    "wccp_address",
    "wccp_router",
    "wccp_version",
    "windows_ipaddrchangemonitor",
    "workers",
    "zero_buffers",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_directive_has_one_class() {
        let lists = [TRANSLATED, PARENTS, LIMITS, REWRITES, HARMLESS];

        let all: Vec<&str> = lists.iter().copied().flatten().copied().collect();

        let unique: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(unique.len(), all.len(), "a directive is in two lists");
        assert!(all.len() > 377, "{}", all.len());
        assert!(all.iter().all(|name| class(name) != Class::Unknown));
        assert_eq!(class("frobnicate"), Class::Unknown);
        assert_eq!(class("refresh_pattern"), Class::Harmless);
        assert!(matches!(class("tcp_outgoing_mark"), Class::ChangesAddress(_)));
        assert!(matches!(class("url_rewrite_program"), Class::Opens(_)));
    }
}
