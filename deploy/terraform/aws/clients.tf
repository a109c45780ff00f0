# The same clients as the gateway's documents. Nothing here needs a provider.

module "tenant" {
  source   = "../tenant"
  for_each = var.clients

  name             = each.key
  egress_addresses = [each.value.private_address]
  proxy_address    = var.proxy_address
  proxy_shared     = true
  sources          = each.value.sources
  allow            = each.value.allow
  contact          = var.contact
}

output "configuration" {
  description = "All clients' documents: terraform output -raw configuration > /etc/durward/clients.yaml"
  value       = join("---\n", [for name in sort(keys(var.clients)) : module.tenant[name].document])
}

output "user_data" {
  description = "What the host does at boot, so that it has the clients' private addresses."
  value = join("\n", concat(["#!/bin/sh", "set -e"], [
    for name in sort(keys(var.clients)) : "ip address replace ${var.clients[name].private_address}/32 dev ${var.device}"
  ], [""]))
}
