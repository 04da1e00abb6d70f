// The vault: the host's signing key, which never leaves it, and the secrets that settings refer to.
param name string
param location string
param tags object
param sku string
param keyName string
param secrets array
param principalId string
param publicNetworkAccess string
param deletionProtection bool

@description('Key Vault Crypto User')
var cryptoUser = '12338af0-0e69-4776-bea7-57ae8d297424'

@description('Key Vault Secrets User')
var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  // checkov:skip=CKV_AZURE_189: parameter publicNetworkAccess; without a subnet the app has no private way to it
  // checkov:skip=CKV_AZURE_109: a firewall needs addresses, and a Flex Consumption app has none of its own; RBAC decides
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: sku
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: true
    publicNetworkAccess: publicNetworkAccess
    networkAcls: {
      bypass: 'None'
      defaultAction: publicNetworkAccess == 'Enabled' ? 'Allow' : 'Deny'
    }
  }
}

resource key 'Microsoft.KeyVault/vaults/keys@2023-07-01' = {
  // checkov:skip=CKV_AZURE_40: a key that expires by itself stops every host; docs/deploy-azure.md says how to rotate it
  // checkov:skip=CKV_AZURE_112: an HSM is parameter vaultSku=premium
  parent: vault
  name: keyName
  tags: tags
  properties: {
    kty: sku == 'premium' ? 'EC-HSM' : 'EC'
    curveName: 'P-256'
    keyOps: [
      'sign'
      'verify'
    ]
    attributes: {
      enabled: true
      exportable: false
    }
  }
}

resource signs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(key.id, principalId, cryptoUser)
  scope: key
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', cryptoUser)
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}

// One role for each secret that a setting refers to, and none for the vault. The secrets must be there: the first
// deployment is made with secrets: [], then they are set, then it is deployed as it stands.
resource secret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' existing = [for each in secrets: {
  parent: vault
  name: each.secret
}]

resource reads 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for (each, index) in secrets: {
  name: guid(vault.id, each.secret, principalId, secretsUser)
  scope: secret[index]
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}]

resource lock 'Microsoft.Authorization/locks@2020-05-01' = if (deletionProtection) {
  name: 'keep'
  scope: vault
  properties: {
    level: 'CanNotDelete'
    notes: 'Without the signing key and the domain key no token and no journal of this domain can be checked.'
  }
}
