variable "name" {
  description = "The client's name: lower-case letters, digits and hyphens."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.name))
    error_message = "Write 1 to 63 lower-case letters, digits and hyphens, such as client-a."
  }
}

variable "egress_addresses" {
  description = "The addresses this client leaves from, as the gateway's host has them. Nobody else may have one of them."
  type        = list(string)

  validation {
    condition     = length(var.egress_addresses) > 0
    error_message = "Name at least one address: without one nothing of this client leaves."
  }
}

variable "proxy_address" {
  description = "Where this client's programs find the proxy."
  type        = string
}

variable "proxy_port" {
  description = "The proxy's port."
  type        = number
  default     = 3128
}

variable "proxy_shared" {
  description = "Whether other clients use the same address and port; their sources must differ."
  type        = bool
  default     = false
}

variable "sources" {
  description = "The networks this client's programs come from. All others are refused."
  type        = list(string)

  validation {
    condition     = length(var.sources) > 0
    error_message = "Name at least one network: without one everybody who reaches the proxy may use it."
  }
}

variable "allow" {
  description = "Where this client may go. Nothing else is allowed."
  type = list(object({
    host  = optional(string)
    cidr  = optional(string)
    ports = optional(list(number))
  }))
  default = []
}

variable "mode" {
  description = "Enforce, or Report to watch first."
  type        = string
  default     = "Enforce"

  validation {
    condition     = contains(["Enforce", "Report"], var.mode)
    error_message = "Write Enforce or Report."
  }
}

variable "contact" {
  description = "Whom to ask, told to whoever is denied."
  type        = string
}
