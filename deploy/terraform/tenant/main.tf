# One client as a document for Durward. It needs no provider: what it gives is text, to be put wherever the gateway reads its configuration.

terraform {
  required_version = ">= 1.3"
}

locals {
  document = {
    apiVersion = "durward.dev/v1alpha1"
    kind       = "Tenant"
    metadata   = { name = var.name }
    spec = {
      egress = {
        addresses = var.egress_addresses
        proxy = [{
          address        = var.proxy_address
          port           = var.proxy_port
          shared         = var.proxy_shared
          allowedSources = var.sources
        }]
        mode    = var.mode
        contact = var.contact
        # A rule says only what was written: an empty list of ports would not be the default.
        allow = [for rule in var.allow : { for field, value in rule : field => value if value != null }]
      }
    }
  }
}
