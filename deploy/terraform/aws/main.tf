# Clients of a gateway on EC2: each has an Elastic IP of its own, on an address of its own of the gateway's network interface, and only its
# networks reach the proxy's port. The gateway's instance, interface and security group are yours; they are named in the variables.

terraform {
  required_version = ">= 1.3"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

# What partners let in. It stays the client's even if the instance is replaced.
resource "aws_eip" "client" {
  for_each = var.clients
  domain   = "vpc"
  tags     = { Name = "egress-${each.key}" }
}

# AWS translates between the two, one to one. The host must have the private address too: see user_data.
resource "aws_eip_association" "client" {
  for_each             = var.clients
  allocation_id        = aws_eip.client[each.key].id
  network_interface_id = var.network_interface_id
  private_ip_address   = each.value.private_address
}

resource "aws_vpc_security_group_ingress_rule" "proxy" {
  for_each = merge([
    for name, client in var.clients : { for source in client.sources : "${name} ${source}" => source }
  ]...)
  security_group_id = var.security_group_id
  description       = "forward proxy: ${each.key}"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 3128
  to_port           = 3128
}

output "addresses" {
  description = "What each client's partners let in."
  value       = { for name, eip in aws_eip.client : name => eip.public_ip }
}
