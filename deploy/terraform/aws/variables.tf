variable "clients" {
  description = "The clients by name. private_address is a secondary private address of the gateway's interface that nobody else has."
  type = map(object({
    private_address = string
    sources         = list(string)
    allow = list(object({
      host  = optional(string)
      cidr  = optional(string)
      ports = optional(list(number))
    }))
  }))

  validation {
    condition     = length(distinct([for client in var.clients : client.private_address])) == length(var.clients)
    error_message = "Two clients have the same private_address: they would leave from the same Elastic IP."
  }
}

variable "proxy_address" {
  description = "The private address of the gateway where all clients find the proxy."
  type        = string
}

variable "network_interface_id" {
  description = "The gateway's network interface."
  type        = string
}

variable "device" {
  description = "How the host calls that interface."
  type        = string
  default     = "ens5"
}

variable "security_group_id" {
  description = "The security group of that interface. It must have no other rule that opens port 3128."
  type        = string
}

variable "contact" {
  description = "Whom to ask, told to whoever is denied."
  type        = string
}
